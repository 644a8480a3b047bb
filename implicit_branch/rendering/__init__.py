"""Volume rendering, emitters, scatterers and secondary rays."""
