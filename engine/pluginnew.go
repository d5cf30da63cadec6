package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"blockengine/engine/kit"
)

const newLong = `Write a plugin that builds, works and passes its tests into a new directory, with a
README that says how to go on, the SDK and its manual.

  protocol, go   turns requests into a server's protocol; for WebAssembly, or a process
  protocol, c    the same in C, for WebAssembly, without a libc
  store, go      does its own I/O with any library, in a process of its own`

func pluginNewCommand() *cobra.Command {
	var s kit.Skeleton
	cmd := &cobra.Command{Use: "new DIR", Short: "Write the skeleton of a plugin", Long: newLong, Args: oneArg("DIR"),
		RunE: does(func(cmd *cobra.Command, args []string) error {
			s.Dir = args[0]
			if exe, err := os.Executable(); err == nil {
				s.Engine = exe
			} else {
				s.Engine = "engine"
			}
			name, err := s.Write()
			var wrong *kit.Misuse
			if errors.As(err, &wrong) {
				return &misuse{wrong.Err}
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: the %s plugin %s, in %s\n\n  cd %s\n  make test\n\nREADME.md says how to go on.\n",
				s.Dir, s.Kind, name, languages[s.Lang], s.Dir)
			return err
		})}
	cmd.Flags().StringVar(&s.Kind, "kind", kit.KindProtocol, "protocol or store")
	cmd.Flags().StringVar(&s.Lang, "lang", kit.LangGo, "go or c")
	cmd.Flags().StringVar(&s.Name, "name", "", "what the plugin is called (default as DIR)")
	return cmd
}

var languages = map[string]string{kit.LangGo: "Go", kit.LangC: "C"}
