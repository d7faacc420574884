// Command tokenfork labels where two language models part ways, and whether it matters.
package main

func main() {}
