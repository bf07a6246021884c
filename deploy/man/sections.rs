//! What man pages say beside the help of a command. A row that several pages share is written once.
//! `tests/it/deploy/man.rs` compares it with the program.

/// What a page says beside its help.
pub(crate) struct Page {
    /// The command; empty for `rulec` itself.
    pub(crate) command: &'static str,
    /// What to do, and the line that does it.
    pub(crate) examples: &'static [Row],
    /// Each status, and what it means.
    pub(crate) exit_status: &'static [Row],
    /// Each path, and what is there.
    pub(crate) files: &'static [Row],
    /// Each variable, and what it does.
    pub(crate) environment: &'static [Row],
    /// Pages of others. Those of `rulec` are named in any case.
    pub(crate) see_also: &'static [&'static str],
}

/// A term, and a sentence about it.
pub(crate) type Row = (&'static str, &'static str);

const CANNOT_RUN: Row = ("3", "It could not run, or the command line is wrong.");

const MANIFESTS: Row = (
    "/etc/rulec/manifests",
    "The directory of manifests that the unit of the Debian package reads.",
);
const SOCKET: Row =
    ("/run/rulec/rulec.sock", "The socket of the daemon. Only root and its user can open it.");
const GIVEN: Row = (
    "/var/lib/rulec",
    "The state of the daemon, with the addresses and node ports that it has given out to Services.",
);
const CONFIG: Row =
    ("/etc/default/rulec", "The options of the daemon, if it runs as the unit of the package.");
const KUBECONFIG: Row = (
    "/var/run/secrets/kubernetes.io/serviceaccount",
    "The service account of a Pod: the token and the certificates for the API server.",
);
const STATIC_PODS: Row = (
    "/etc/kubernetes/manifests",
    "Static Pods of the kubelet, which are read beside other manifests without an API server.",
);

const KUBECONFIG_VARIABLE: Row =
    ("KUBECONFIG", "The file for the state `api`, as --kubeconfig, which takes precedence.");
const RULEC_LOG: Row = ("RULEC_LOG", "What to log, as --log-level, which takes precedence.");
const NO_COLOR: Row = ("NO_COLOR", "If it is set, nothing is coloured unless --color asks for it.");
const RULEC_SOCKET: Row =
    ("RULEC_SOCKET", "The socket of the daemon, as --socket, which takes precedence.");
const PAGER: Row = (
    "PAGER",
    "The command that shows the text page by page on a terminal; `less` if it is not set, none if it is empty.",
);
const LESS: Row = ("LESS", "Options of less(1); FRX if it is not set.");
const COLUMNS: Row = ("COLUMNS", "The width of the help, if it is not a terminal's.");

/// The pages, in the order of the commands.
pub(crate) const PAGES: &[Page] = &[
    Page {
        command: "",
        examples: &[
            ("Program this node from manifests:", "rulec run --manifests /etc/rulec/manifests"),
            ("See what an edited manifest would change:", "rulec diff --to /etc/rulec/manifests"),
            ("Ask why a Service does not answer:", "rulec show services default/web"),
        ],
        exit_status: &[
            ("0", "All is well, and a comparison has found no difference."),
            ("1", "A comparison or a check has found something, or something is wrong."),
            ("2", "Something could not be read, or did not come; the rest was done."),
            CANNOT_RUN,
        ],
        files: &[CONFIG, MANIFESTS, SOCKET, GIVEN],
        environment: &[RULEC_LOG, NO_COLOR, COLUMNS],
        see_also: &["nft(8)", "ipvsadm(8)", "conntrack(8)"],
    },
    Page {
        command: "run",
        examples: &[
            (
                "Read manifests, and give their Services addresses of a network of one's own:",
                "rulec run --manifests /etc/rulec/manifests --service-cidr 10.32.0.0/16",
            ),
            (
                "Take the place of kube-proxy, with its configuration:",
                "rulec run --config /var/lib/kube-proxy/config.conf",
            ),
            (
                "Program IPVS, with the scheduler of the fewest connections:",
                "rulec run --kubeconfig /etc/rulec/kubeconfig --proxy-mode ipvs --ipvs-scheduler wlc",
            ),
        ],
        exit_status: &[
            (
                "0",
                "It was told to stop, by SIGTERM or SIGINT, or has done all that it was asked for.",
            ),
            (
                "3",
                "It could not start, the command line or the configuration is wrong, or a part of it has died. The rules stay.",
            ),
        ],
        files: &[CONFIG, MANIFESTS, SOCKET, GIVEN, KUBECONFIG, STATIC_PODS],
        environment: &[
            RULEC_LOG,
            RULEC_SOCKET,
            (
                "STATE_DIRECTORY",
                "The directory of the state, as --state-dir, which takes precedence. systemd sets it.",
            ),
            (
                "KUBERNETES_SERVICE_HOST",
                "If it is set and there is no other source, the API server of the cluster is read, as with --in-cluster.",
            ),
            (
                "HTTPS_PROXY",
                "The proxy for requests to an API server by https. HTTP_PROXY is the one for http, and NO_PROXY names the hosts that need none.",
            ),
            (
                "NOTIFY_SOCKET",
                "Where the service manager is told that the node is programmed; with WATCHDOG_USEC, also that the daemon is alive.",
            ),
            ("NO_COLOR", "If it is set, the log is not coloured on a terminal either."),
        ],
        see_also: &["nft(8)", "ipvsadm(8)", "systemd.service(5)"],
    },
    Page {
        command: "diff",
        examples: &[
            (
                "Before new manifests are installed, see what they change on this node:",
                "rulec diff --to new-manifests",
            ),
            (
                "Compare two directories, without a kernel and without root:",
                "rulec diff --from main --to branch --node-name node-1",
            ),
            (
                "Compare what the kernel holds with a list of the cluster's objects, which comes by the standard input:",
                "rulec diff --to -",
            ),
            (
                "Compare it with what an API server has:",
                "rulec diff --to api --kubeconfig /etc/rulec/kubeconfig",
            ),
        ],
        exit_status: &[
            ("0", "Nothing would change."),
            ("1", "Something would change."),
            ("2", "A part could not be compared: there may be a difference in it."),
            ("3", "Nothing was compared: a side cannot be read, or the command line is wrong."),
        ],
        files: &[SOCKET, GIVEN, MANIFESTS],
        environment: &[PAGER, LESS, RULEC_SOCKET, KUBECONFIG_VARIABLE, NO_COLOR, RULEC_LOG],
        see_also: &["diff(1)", "less(1)"],
    },
    Page {
        command: "explain",
        examples: &[
            (
                "Where a connection of a Pod goes, by the rules that the kernel holds:",
                "rulec explain 10.96.0.10:80 --from 10.244.1.7",
            ),
            (
                "Each port of a Service, by manifests, without root:",
                "rulec explain default/web --state /etc/rulec/manifests",
            ),
            (
                "What a client outside of the cluster meets at a node port:",
                "rulec explain :30080 --from 203.0.113.5",
            ),
        ],
        exit_status: &[
            ("0", "It is explained, also if the packet goes nowhere."),
            ("2", "Something could not be read; the rest is explained nevertheless."),
            CANNOT_RUN,
        ],
        files: &[SOCKET, GIVEN, MANIFESTS],
        environment: &[RULEC_SOCKET, KUBECONFIG_VARIABLE, NO_COLOR, RULEC_LOG],
        see_also: &["nft(8)", "ip-route(8)"],
    },
    Page {
        command: "trace",
        examples: &[
            (
                "Open a connection to a Service from this node, and follow it:",
                "rulec trace default/web",
            ),
            (
                "Wait a minute for the next packet of a Pod:",
                "rulec trace 10.96.0.10:80 --from 10.244.1.7 --seconds 60",
            ),
        ],
        exit_status: &[
            ("0", "The packet went the way that rulec-explain(1) expects."),
            ("1", "It went another way."),
            ("2", "There was no packet."),
            ("3", "It cannot trace, or the command line is wrong."),
        ],
        files: &[SOCKET],
        environment: &[RULEC_SOCKET, NO_COLOR, RULEC_LOG],
        see_also: &["nft(8)"],
    },
    Page {
        command: "check",
        examples: &[
            ("Check the manifests of a repository:", "rulec check manifests"),
            ("Check what a tool prints, which comes by the standard input:", "rulec check -"),
            (
                "Write a file for code scanning, and pass over a rule:",
                "rulec check --output sarif --ignore selector-matches-nothing manifests",
            ),
        ],
        exit_status: &[
            ("0", "No error and no warning was found."),
            ("1", "Something was found."),
            ("2", "Something could not be read."),
            CANNOT_RUN,
        ],
        files: &[MANIFESTS],
        environment: &[NO_COLOR, RULEC_LOG],
        see_also: &[],
    },
    Page {
        command: "show",
        examples: &[
            ("All Services, as the daemon knows them:", "rulec show services"),
            (
                "One of them in full, with the endpoints that are not used and the reasons:",
                "rulec show services default/web",
            ),
            (
                "The endpoints behind a node port, for a program:",
                "rulec show endpoints :30080 -o json",
            ),
            (
                "How many flows each endpoint of a Service has now:",
                "rulec show endpoints default/web --flows",
            ),
            (
                "What manifests would be, without a daemon and without root:",
                "rulec show services --state /etc/rulec/manifests",
            ),
        ],
        exit_status: &[
            ("0", "It is shown."),
            (
                "2",
                "Something of the state that --state names could not be read; the rest is shown.",
            ),
            CANNOT_RUN,
        ],
        files: &[SOCKET, GIVEN],
        environment: &[RULEC_SOCKET, KUBECONFIG_VARIABLE, RULEC_LOG],
        see_also: &[],
    },
    Page {
        command: "status",
        examples: &[
            ("How the daemon is:", "rulec status"),
            ("The same, for a program:", "rulec status -o json"),
        ],
        exit_status: &[
            ("0", "Nothing is wrong."),
            ("1", "Something is wrong, which the output names."),
            ("3", "There is no daemon, it does not answer, or the command line is wrong."),
        ],
        files: &[SOCKET],
        environment: &[RULEC_SOCKET, NO_COLOR, RULEC_LOG],
        see_also: &["systemctl(1)"],
    },
    Page {
        command: "watch",
        examples: &[
            ("Every change, as it happens:", "rulec watch"),
            ("Those of one Service, for a program:", "rulec watch default/web -o json"),
        ],
        exit_status: &[
            ("0", "Whoever reads the output has closed it."),
            ("3", "There is no daemon, it does not answer, or the command line is wrong."),
        ],
        files: &[SOCKET],
        environment: &[RULEC_SOCKET, NO_COLOR, RULEC_LOG],
        see_also: &[],
    },
    Page {
        command: "top",
        examples: &[
            ("Which Services get new connections, live:", "rulec top"),
            ("The connections of ten seconds, as text:", "rulec top --once --interval 10"),
            ("The same, for a program:", "rulec top --once --interval 10 -o json"),
        ],
        exit_status: &[
            ("0", "They are shown."),
            (
                "3",
                "There is no daemon, it does not answer, it does not count, or the command line is \
                 wrong.",
            ),
        ],
        files: &[SOCKET],
        environment: &[RULEC_SOCKET, RULEC_LOG],
        see_also: &[],
    },
    Page {
        command: "history",
        examples: &[
            ("The changes that are kept:", "rulec history"),
            ("One of them in full:", "rulec history 17"),
            (
                "The changes of one Service, for a program:",
                "rulec history --service default/web -o json",
            ),
        ],
        exit_status: &[
            ("0", "It is shown."),
            (
                "3",
                "There is no daemon, it does not answer, it does not keep the change, or the command \
                 line is wrong.",
            ),
        ],
        files: &[SOCKET],
        environment: &[PAGER, LESS, RULEC_SOCKET, NO_COLOR, RULEC_LOG],
        see_also: &["less(1)"],
    },
    Page {
        command: "replay",
        examples: &[
            ("What a recording has:", "rulec replay /var/lib/rulec/rulec.rec"),
            (
                "Ten minutes of it, with pseudonyms, to send to somebody:",
                "rulec replay /var/lib/rulec/rulec.rec --from 2026-11-30T22:10:00Z --until \
                 2026-11-30T22:20:00Z --mask --save part.rec",
            ),
            ("All of it, for a program:", "rulec replay /var/lib/rulec/rulec.rec -o json"),
        ],
        exit_status: &[
            ("0", "It is listed or written."),
            ("2", "A part of it is torn. It is named, and the rest is listed or written."),
            CANNOT_RUN,
        ],
        files: &[(
            "FILE.old",
            "What was recorded before FILE was begun. It is read, too, if it is there.",
        )],
        environment: &[RULEC_LOG],
        see_also: &[],
    },
    Page {
        command: "relay",
        examples: &[
            (
                "Serve nodes that show certificates of the cluster's authority:",
                "rulec relay --kubeconfig relay.kubeconfig --certificate relay.crt --key relay.key --client-certificate-authority ca.crt",
            ),
            (
                "Serve Pods of a DaemonSet, which show tokens of the account kube-system/rulec:",
                "rulec relay --certificate relay.crt --key relay.key --token-audience rulec-relay",
            ),
            (
                "On one machine, from manifests, to try it:",
                "rulec relay --insecure --listen 127.0.0.1:18000 --manifests /etc/rulec/manifests",
            ),
        ],
        exit_status: &[
            ("0", "It was told to stop by SIGTERM or SIGINT."),
            ("3", "It could not run, or the command line is wrong."),
        ],
        files: &[KUBECONFIG],
        environment: &[RULEC_LOG],
        see_also: &[],
    },
    Page {
        command: "cleanup",
        examples: &[
            ("Remove all that rulec has put into the kernel:", "rulec cleanup"),
            (
                "Remove what kube-proxy has left on the node, once rulec runs:",
                "rulec cleanup --kube-proxy",
            ),
        ],
        exit_status: &[("0", "Nothing of it is left."), CANNOT_RUN],
        files: &[GIVEN],
        environment: &[RULEC_LOG],
        see_also: &["nft(8)", "ipvsadm(8)", "iptables(8)"],
    },
    Page {
        command: "completions",
        examples: &[("Complete in this shell:", "source <(rulec completions bash)")],
        exit_status: &[("0", "The script is printed."), CANNOT_RUN],
        files: &[
            (
                "/usr/share/bash-completion/completions/rulec",
                "The script for bash of the Debian package.",
            ),
            ("/usr/share/zsh/vendor-completions/_rulec", "The script for zsh."),
            ("/usr/share/fish/vendor_completions.d/rulec.fish", "The script for fish."),
        ],
        environment: &[COLUMNS, RULEC_LOG],
        see_also: &["bash(1)", "zsh(1)", "fish(1)"],
    },
];
