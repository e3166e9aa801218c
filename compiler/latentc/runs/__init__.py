"""Training runs in folders: their curves as text, and several of them compared on a page."""
