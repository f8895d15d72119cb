"""Ball-and-stick pictures of molecules and crystals."""
