"""Ways to seal a stanza, one file each."""
