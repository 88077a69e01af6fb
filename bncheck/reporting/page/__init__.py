"""What the HTML page is made of: a template, its style and its script."""
