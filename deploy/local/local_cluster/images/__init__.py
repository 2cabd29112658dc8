"""Built-in images: the default image map and the tiny programs behind ``local/…`` images."""
