"""Files: those that users name, those that ship with latentc, and templates."""
