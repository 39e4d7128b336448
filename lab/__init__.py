"""An internet inside one Linux machine, for tests, benches and the demo.

Regions with a router each, hosts that run the very programs of a real server, clients, and a delay
between regions. Everything lives in namespaces below one process and ends with it; the machine's
own network is never touched. Product code never imports the lab, and the lab talks to the product
by its commands and settings alone.
"""
