// Package transport moves bytes between the engine and storage servers: it
// resolves addresses, connects, and keeps a connection's send queue and receive
// buffer. It does not know what the bytes mean.
//
// A Stream belongs to one reactor.
package transport
