// Command process is the plugin as a process of its own.
package main

import (
	plain "blockengine/examples/protocol-go"
	"blockengine/sdk/process"
)

func main() { process.Serve(process.Options{Protocol: plain.Plugin()}) }
