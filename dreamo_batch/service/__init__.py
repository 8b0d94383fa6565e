"""The service, client side: its facts (`contract`), its JSON (`messages`), what can go wrong, and the HTTP below."""
