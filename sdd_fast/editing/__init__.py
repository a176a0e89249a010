"""From images to edited images: the editor, and what it reads and writes."""
