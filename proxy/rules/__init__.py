"""What each kind of stanza may show, hide and carry; one file per concern."""
