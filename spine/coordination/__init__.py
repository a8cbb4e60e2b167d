"""What agents would otherwise arrange among themselves, durable: one primitive a file, its decision a pure function."""
