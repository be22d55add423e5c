"""What tests have of tcelab: the pytest plugin, and a guest as a fixture."""
