"""What several tests use, and programs that they run as processes of their own."""
