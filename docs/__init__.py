"""The documentation: its pages, and what makes their pictures, their reference and the site."""
