// Package sdk holds the SDK's own sources, and the manual, for whoever hands
// them out: "engine plugin new" writes them beside a skeleton. Plugins import
// the packages below this one, never it.
package sdk

import "embed"

// Source is this directory. Of its files those that tests are made of are of no
// use elsewhere.
//
//go:embed *
var Source embed.FS
