"""What happens by itself: periods end, deliveries are sent."""
