"""Events as lines of JSON: a whole log written out and read in again, or lines from elsewhere published."""
