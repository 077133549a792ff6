"""The door is opened first, so that no test depends on which module another imported before."""
