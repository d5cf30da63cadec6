// Package archtest keeps the import directions of DESIGN, chapter 8: a table of
// bans, each with its reason, checked against what the go tool says each package
// imports. Its test prints the reason of every ban that is broken.
//
// It knows imports only, not what packages do with them. Directories called
// testdata are outside of it, as they are outside of "./...".
//
// Read first: rules.go, the table. To allow an import, change the row and say
// why in its reason.
package archtest
