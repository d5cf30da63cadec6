// Package examples holds the sources of the examples, from which "engine plugin
// new" makes skeletons.
package examples

import "embed"

// Source is this directory.
//
//go:embed protocol-go protocol-c
var Source embed.FS
