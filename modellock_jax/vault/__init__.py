"""Everything that touches secrets on the host: keys from the operating system and their files."""
