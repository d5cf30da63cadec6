// Package worker is the plugin's end of the memory that package ring describes: it
// takes what the engine puts there, calls the plugin, and puts back what it gives.
//
// Whoever writes a plugin calls process.Serve, which uses it, and needs nothing of
// this package. It trusts the engine, which could do without it anyway.
//
// Read first: package ring.
package worker
