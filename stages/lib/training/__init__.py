"""The one loop and what it needs; it knows neither masks nor teachers nor labels."""
