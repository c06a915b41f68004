"""The ROOT CA, the key files and the secrets: nothing here knows a network."""
