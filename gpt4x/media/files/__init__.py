"""Files of images, sounds and videos, and the arrays that they hold: `media.medium`'s classes."""
