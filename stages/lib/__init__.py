"""What two stages share, or what deserves a test of its own. Import by full name: nothing is re-exported."""
