"""An OpenAI-compatible server: requests are answered together, and each as if it were alone."""
