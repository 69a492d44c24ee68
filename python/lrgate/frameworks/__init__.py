"""Networks in the forms of other frameworks. Each framework is imported only where it is used."""
