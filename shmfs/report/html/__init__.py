"""A trace as one HTML file that needs nothing else: pictures of segments, pages, processes and time."""
