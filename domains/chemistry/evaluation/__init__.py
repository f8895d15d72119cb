"""How samples of molecules and crystals are judged."""
