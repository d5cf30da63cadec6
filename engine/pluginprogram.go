package main

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"blockengine/engine/pluginhost/process"
)

// inspectProgram reports on a plugin that runs as a process.
func inspectProgram(cmd *cobra.Command, path string, asJSON bool) error {
	r, err := process.Inspect(cmd.Context(), process.Options{Path: path, Log: newLogger(cmd.ErrOrStderr(), slog.LevelWarn)})
	if err != nil {
		return err
	}
	if asJSON {
		err = printJSON(cmd.OutOrStdout(), r)
	} else {
		err = printProgram(cmd.OutOrStdout(), r)
	}
	if err == nil && r.Problem != "" {
		return fmt.Errorf("this file would be refused: %s", r.Problem)
	}
	return err
}

func printProgram(to io.Writer, r *process.Report) error {
	w := newTable(to)
	fmt.Fprintf(w, "file\t%s\nsha256\t%s\nsize\t%d bytes\nruntime\tprocess\n", r.Path, r.SHA256, r.Size)
	if m := r.Manifest; m != nil {
		fmt.Fprintf(w, "kind\t%s\nname\t%s\nversion\t%s\nplugin interface\t%s\n", r.Kind, m.Name, dash(m.Version), r.ABI)
		fmt.Fprintf(w, "over when its process is\t%s\n", yes(r.FenceOnExit))
		for _, o := range m.Options {
			fmt.Fprintf(w, "option\t%s (%s%s%s): %s\n", o.Name, o.Type, when(o.Required, ", required"), when(o.Secret, ", secret"), o.Help)
		}
	}
	return w.Flush()
}
