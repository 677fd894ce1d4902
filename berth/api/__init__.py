"""The control API's resources as the controller serves them and the client reads them. No behaviour lives here."""
