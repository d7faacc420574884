module tokenfork

go 1.26.8
