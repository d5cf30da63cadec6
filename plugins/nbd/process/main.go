// Command process is the nbd plugin as a process of its own:
//
//	go build -o nbd ./plugins/nbd/process
package main

import (
	"blockengine/plugins/nbd"
	"blockengine/sdk/process"
)

func main() { process.Serve(process.Options{Protocol: nbd.Plugin()}) }
