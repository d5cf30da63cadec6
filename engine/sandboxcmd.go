package main

import (
	"github.com/spf13/cobra"

	"blockengine/engine/pluginhost/sandbox"
)

// sandboxCommand is the command that becomes a plugin's process; it is not for
// people.
func sandboxCommand() *cobra.Command {
	return &cobra.Command{Use: sandbox.Command, Hidden: true, DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error { return silent(sandbox.Main(args)) }}
}
