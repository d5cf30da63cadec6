;; Has its events and its actions in the same place.
(data (i32.const 24) "\00\80\01\00")
