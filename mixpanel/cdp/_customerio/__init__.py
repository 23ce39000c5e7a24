"""What sets Customer.io apart: its dialect, its calls about people, its advice on names."""
