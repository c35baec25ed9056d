"""What people see: status, history, published data."""
