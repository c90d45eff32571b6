"""Pictures of environments: frames, fonts, the panel and the window to play in."""
