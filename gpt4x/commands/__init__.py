"""The sub-commands of `gpt4x`, one a file: each reads gin, calls the library and prints."""
