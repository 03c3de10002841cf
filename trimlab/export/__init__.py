"""Writing a trimmed model so that it loads where trimlab is not installed."""
