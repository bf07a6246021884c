"""Manifests that change at random: Services with traffic, which exist all the time, and others."""

import random

PORTS = (8080, 9090)


class Cluster:
    """A directory of manifests."""

    STABLE = 20
    # The endpoints that a Service with traffic always has, of those that it may have.
    CORE = 3

    def __init__(self, directory, services, seed):
        self.directory = directory
        self.drafts = directory.with_name("drafts")
        self.services = services
        self.dice = random.Random(seed + 1)
        self.stable = [Stable(number) for number in range(self.STABLE)]
        self.present = set()

    def stable_frontends(self):
        """Addresses and ports at which new connections must always succeed."""
        return [it for service in self.stable for it in service.frontends()]

    def fill(self):
        for directory in (self.directory, self.drafts):
            directory.mkdir(parents=True)
        self.write("node", NODE)
        for service in self.stable:
            self.write(service.name, service.text())
        for number in range(self.services // 2):
            self.put(number)

    def write(self, name, text):
        """Replaces a file atomically."""
        draft = self.drafts / name
        draft.write_text(text, encoding="utf-8")
        draft.rename(self.directory / f"{name}.yaml")

    def put(self, number):
        self.present.add(number)
        self.write(f"churn-{number}", churn(number, self.dice))

    def change(self):
        """Makes one change."""
        dice = self.dice
        if dice.random() < 0.3:
            service = dice.choice(self.stable)
            service.change(dice)
            self.write(service.name, service.text())
            return
        number = dice.randrange(self.services)
        if number in self.present and dice.random() < 0.3:
            self.present.discard(number)
            (self.directory / f"churn-{number}.yaml").unlink()
        else:
            self.put(number)


NODE = """\
apiVersion: v1
kind: Node
metadata:
  name: na
  labels: {topology.kubernetes.io/zone: here}
status:
  addresses: [{type: InternalIP, address: 192.0.2.1}]
"""


class Stable:
    """A Service with traffic. It always has some endpoints, and all of them answer on all ports."""

    def __init__(self, number):
        self.number = number
        self.name = f"stable-{number}"
        self.address = f"10.96.0.{number + 1}"
        self.node_port = 30_000 + number if number % 2 else None
        self.endpoints = set(range(Cluster.CORE))
        self.port = PORTS[0]
        self.affinity = None
        self.how = None

    def frontends(self):
        yield self.address, 80
        if self.node_port:
            yield "192.0.2.1", self.node_port

    def change(self, dice):
        what = dice.randrange(6)
        if what < 3:
            self.endpoints ^= {dice.randrange(Cluster.CORE, 12)}
        elif what == 3:
            self.port = dice.choice(PORTS)
        elif what == 4:
            self.affinity = dice.choice([None, 60, 10_800])
        else:
            self.how = dice.choice([None, "maglev", "round-robin"])

    def text(self):
        lines = []
        if self.affinity:
            lines += affinity(self.affinity)
        if self.node_port:
            lines.append("type: NodePort")
        node_port = f", nodePort: {self.node_port}" if self.node_port else ""
        hosts = [
            f"10.50.1.{self.number * 12 + endpoint + 1}" for endpoint in sorted(self.endpoints)
        ]
        return service(self.name, self.address, lines, node_port, self.how) + slice_of(
            self.name, self.port, [(host, "nb", True) for host in hosts]
        )


def affinity(seconds):
    return [
        "sessionAffinity: ClientIP",
        f"sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {seconds}}}}}",
    ]


def service(name, address, lines, node_port="", how=None, status=""):
    annotations = f"\n  annotations: {{rulec.io/load-balancing: {how}}}" if how else ""
    lines = "".join(f"  {line}\n" for line in lines)
    return (
        f"apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}{annotations}\n"
        f"spec:\n  clusterIP: {address}\n{lines}"
        f"  ports:\n  - {{name: http, port: 80, targetPort: 8080{node_port}}}\n{status}---\n"
    )


def slice_of(name, port, endpoints):
    lines = "".join(
        f"- addresses: [{address}]\n  nodeName: {node}\n"
        f"  conditions: {{ready: {str(ready).lower()}}}\n"
        for address, node, ready in endpoints
    )
    listed = f"endpoints:\n{lines}" if lines else "endpoints: []\n"
    return (
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"
        f"metadata:\n  name: {name}-a\n  labels: {{kubernetes.io/service-name: {name}}}\n"
        f"addressType: IPv4\nports:\n- {{name: http, port: {port}}}\n{listed}"
    )


def churn(number, dice):
    """Returns a random Service with its endpoints, none of which conflicts with another one."""
    name, lines, node_port, status = f"churn-{number}", [], "", ""
    kind = dice.choice(["ClusterIP", "ClusterIP", "NodePort", "LoadBalancer"])
    if kind != "ClusterIP":
        lines.append(f"type: {kind}")
        node_port = f", nodePort: {31_000 + number}"
        if dice.random() < 0.3:
            lines.append("externalTrafficPolicy: Local")
    if kind == "LoadBalancer":
        address = f"198.51.{number >> 8}.{number & 255}"
        status = f"status: {{loadBalancer: {{ingress: [{{ip: {address}}}]}}}}\n"
        ranges = [it for it in ("203.0.113.0/24", "192.0.2.0/24") if dice.random() < 0.3]
        if ranges:
            lines.append(f"loadBalancerSourceRanges: [{', '.join(ranges)}]")
    if dice.random() < 0.2:
        lines.append("internalTrafficPolicy: Local")
    how = dice.choice([None, None, "maglev", "round-robin"])
    if dice.random() < 0.3:
        lines += affinity(dice.choice([60, 300, 10_800]))
    hosts = dice.sample(range(1, 255), dice.choice([0, 1, 2, 3, 5, 10, 20]))
    endpoints = [
        (f"10.51.{number % 250}.{host}", dice.choice(["na", "nb"]), dice.random() < 0.9)
        for host in hosts
    ]
    address = f"10.97.{number >> 8}.{number & 255}"
    return service(name, address, lines, node_port, how, status) + slice_of(name, 8080, endpoints)
