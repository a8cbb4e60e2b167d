"""What tests of spine and of systems built on it need."""
