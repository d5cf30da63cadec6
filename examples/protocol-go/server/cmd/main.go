// Command cmd serves a disk of 64 MiB on the unix socket that it is given.
package main

import (
	"log"
	"net"
	"os"

	"blockengine/examples/protocol-go/server"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: cmd SOCKET")
	}
	l, err := net.Listen("unix", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(server.New(64 << 20).Serve(l))
}
