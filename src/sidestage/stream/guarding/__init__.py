"""What stands before calls that may fail, hang or come too often."""
