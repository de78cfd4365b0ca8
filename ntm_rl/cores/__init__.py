"""The memory cores: recurrent networks with one flat state, one core a file."""
