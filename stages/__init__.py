"""One file per kind of stage; each ends in main(), the composition root of that stage."""
