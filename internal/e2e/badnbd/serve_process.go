//go:build !wasip1

package main

import (
	"blockengine/plugins/nbd"
	"blockengine/sdk/process"
)

func main() { process.Serve(process.Options{Protocol: plugin{nbd.Plugin()}}) }
