"""Where two connections that both went out are joined, by a program that knows nothing of what passes."""
