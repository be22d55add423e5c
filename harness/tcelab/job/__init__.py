"""A command's work, from what the user chose to what is written down."""
