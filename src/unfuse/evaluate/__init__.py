"""Scores of layer stacks against true layers: measures as pure functions, one run over a folder, one page."""
